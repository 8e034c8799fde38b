"""How a paid call is worked on, from the tool's call to the kept pictures.

service         what the tools call: begins jobs, follows them, finds them
config          the limits, the clock and the waits that all of these share
running         the jobs that this server works on, and who hears of their changes
worker          does a job's work: sends the call, keeps the pictures
rate_limiter    sends each call when the limits allow it, fairly between callers
polling         watches a queued job and fetches its pictures
image_saver     keeps pictures, with the recipe in each
image_mover     moves what a full disk would not take to the gallery, once that works again
progress        how far a job is, in words
reconciliation  finds out from the API's history how a call ended whose answer never came
recovery        takes up the jobs that another server left behind
imported_job    makes a job of a call that only the API knows
"""
