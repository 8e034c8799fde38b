"""`mcp-vega jobs`.

command  reads the options; lists jobs
lookup   finds what the user names: a job or a picture
details  all that is known of one job
spent    what was spent, by day and model or caller
words    the state and the cost of a job
"""
