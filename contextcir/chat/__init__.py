"""From a question to its outcome, once: looked up, paid for, sent, retried where that helps, and noted.

Engines get `ask` of one of two dispatchers. [`Dispatcher`] sends each request by itself, so many at a time and fewer
where the server says that these are too many. [`BatchDispatcher`] collects what is asked until nobody asks any more,
and sends it as files. Ids, ledger and outcomes are the same: a folder begun with one goes on with the other.
"""

from contextcir.chat.dispatch_batch import BatchDispatcher
from contextcir.chat.dispatch_online import Dispatcher
from contextcir.chat.pace import Progress

__all__ = ["BatchDispatcher", "Dispatcher", "Progress"]
