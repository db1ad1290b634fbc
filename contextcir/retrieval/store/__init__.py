"""Galleries on disk: images are embedded once, by any number of workers, and searched from then on."""
