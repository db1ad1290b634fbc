"""Chat servers: requests, answers, prices, a ledger of all requests, and dispatchers that send each request once."""
