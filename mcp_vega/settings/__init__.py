"""Every environment variable of this package, read once when a command starts.

settings      the class `Settings`: each variable, its default and its meaning
values        how values are cleaned up, and messages about wrong ones
urls          addresses of the API and of OAuth
folders       folders and their defaults
combinations  which variables can be set together
secret_files  the key and the access tokens in files
ledger_url    the URL of a PostgreSQL database
bucket_url    the URL of a bucket
secrets       which values of the environment must be redacted
"""

from mcp_vega.settings.settings import Settings
from mcp_vega.settings.urls import VENDOR_URL

__all__ = ["VENDOR_URL", "Settings"]
