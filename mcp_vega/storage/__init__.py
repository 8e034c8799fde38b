"""Everything that is kept: jobs and spending in a database, pictures in folders or in a bucket."""
