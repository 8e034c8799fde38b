"""`mcp-vega export` and `mcp-vega import`: move a ledger and its pictures to another ledger, through one file.

command    the commands
exporting  from the ledger to the file
importing  from the file to the ledger
archive    the file: a zip
records    a job as JSON
parallel   does the same work for several things at the same time
report     what people see
"""
