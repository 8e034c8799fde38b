"""The studio: one job for each paid call, carried to its end, and its pictures kept.

studio      what the server asks of all these
jobs        a job, its state and its pictures
crew        has each job worked on by one server of those that share the ledger
carrier     does a job's work: sends, watches, fetches
turns       send each paid call when the user's limits and the API's let it; `limits` says what these are
settlement  finds in the API's request history how a call ended whose answer was lost
adoption    takes in a job that only the API knows
keeper      puts pictures into the gallery, with the recipe in each
recipes     how a picture was drawn, in its own file
darkroom    decodes pictures, one at a time; `pictures` is what it does with them
gallery     the folder of the pictures; `files` is how one gets there
board       where the jobs stand that are worked on here, and who wants to hear of it
ledger      every job, in SQLite; `database` is the file, `statements` the SQL, `records` the rows
servers     which of those that share the ledger are alive
catalogue   finds in the ledger what was kept
accounts    add up in the ledger what was spent
"""
