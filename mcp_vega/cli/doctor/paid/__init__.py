"""`mcp-vega doctor --paid`: draws a few pictures, and compares all that is assumed of the API with its answers.

command       asks, has it done, says what came of it
trial         draws the pictures by way of the job service, and looks for the calls in the request history
observation   what was seen meanwhile
finding       an assumption, and what came of comparing it
assumptions   every assumption, in the order of the page
v1, v2        those about the answers to calls
every_call    those about both: pictures, money, refusals
history_rows  those about how the request history tells a call
history_pages those about how it lists calls
report        the page, and the file for whoever has to correct an assumption
"""
