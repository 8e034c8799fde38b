"""Finds out how a call ended whose answer never came.

reconciler   brings jobs to the end that the request history tells, or says that it is not known
call_finder  looks for a job's call in the history
matching     whether a row of the history is a job's call
"""
