"""`mcp-vega doctor --paid`: draws a few pictures, and compares the API's answers with what is assumed of them.

command       asks which pictures may be drawn, and prints the comparison
trial         draws the pictures with the job service, and looks for the calls in the request history
observation   everything that was seen meanwhile
finding       an assumption, and the result of comparing it
assumptions   all assumptions, in the order of the page
v1            the assumptions about the answers to calls of v1
v2            the assumptions about the answers to calls of v2
every_call    the assumptions about both: pictures, money, refusals
history_rows  the assumptions about a call's row in the request history
history_pages the assumptions about how the history lists calls
report        the page, and the file to attach to a report
"""
