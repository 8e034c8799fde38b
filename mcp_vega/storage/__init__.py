"""What is kept: jobs and money in a database, pictures in folders."""
