"""The only writers: steps, the ledger, the transaction."""
