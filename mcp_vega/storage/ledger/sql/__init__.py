"""The SQL of the ledger, and how jobs become rows.

schema   the tables
queries  the statements
rows     converts jobs to rows, and rows to jobs
"""
