"""The SQL of the ledger, in PostgreSQL's dialect, and how jobs become rows.

schema         the tables
migrations     their changes since the first release
job_queries    the statements about jobs
limit_queries  the statements about servers, money, slots and secrets
transfers      the statements that move jobs between ledgers
image_queries  the statements about pictures and the beginnings of ids
rows           converts jobs to rows, and rows to jobs
"""
