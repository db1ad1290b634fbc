"""Builders of data sets, and of the models that data are made with: `contextcir data NAME`."""
