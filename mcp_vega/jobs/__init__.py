"""The work on a paid call, from the tool's call to the kept pictures.

service          what the tools call: begins jobs, follows them, finds them
config           the limits, the clock and the waits that all of these share
running          the jobs that this server works on
changes          reports the changes of jobs, also to other servers and from them
worker           does a job's work: sends the call, saves the pictures
rate_limiter     sends each call when the limits allow it, fairly between callers
polling          when a drawing should be ready; watches a queued job and downloads its pictures
images           saves pictures, and moves them to the gallery when it works again
instrumentation  reports to operators what happens to each job
progress         how far a job is, in words
reconciliation   finds out from the API's history how a call ended if its answer was lost
recovery         continues the jobs that another server left behind
"""
