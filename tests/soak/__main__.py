"""`python -m tests.soak SCENARIO N SEED`: counted runs, each batch a line in LEDGER.md. Resumable: it goes on after the
last run that the ledger has of this scenario and seed."""
