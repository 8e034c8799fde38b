"""When a drawing should be ready, and how its pictures are got then.

drawing_times  how long drawings take, by the last receipts
poller         watches a job in the API's queue
"""
