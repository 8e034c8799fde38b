"""Object storage: Amazon S3 and compatible services, Google Cloud Storage, Azure Blob Storage.

address    the URL of a bucket, and the environment variables with the credentials
client     the requests, with their time limits and retries
problems   what the storage's errors mean, in plain words
"""
