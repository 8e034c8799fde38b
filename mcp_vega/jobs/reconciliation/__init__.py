"""Finds out how a call ended if its answer was lost.

reconciler   ends jobs as the request history shows, or says that the outcome is not known
call_finder  searches the history for a job's call
matching     whether a row of the history is a job's call
imported_job makes a job for a call that only the API knows
"""
