"""The tables, in SQL that PostgreSQL understands too, except for WITHOUT ROWID and the types of the `number` columns.

All times of day are microseconds since 1970 (UTC), so `datetime(created / 1000000, 'unixepoch')` shows one in SQLite.
Days are days since 1970 (UTC).
"""

SCHEMA = """
    CREATE TABLE servers (
        id TEXT PRIMARY KEY,       -- the name of its lock file
        process BIGINT NOT NULL,
        calls_a_minute INTEGER     -- its limit, if it has one
    );
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY,
        local_id TEXT NOT NULL UNIQUE,
        remote_id TEXT,
        base_url TEXT NOT NULL,
        account TEXT NOT NULL,     -- a keyed hash of the API key
        owner TEXT NOT NULL,       -- '' is the user of this machine
        model TEXT NOT NULL,
        route TEXT NOT NULL,
        arguments TEXT NOT NULL,   -- JSON, as the caller gave them (null: the value in the recipe)
        call TEXT NOT NULL,        -- a hash of the call: the same for the same call
        prompt TEXT NOT NULL,
        seed BIGINT NOT NULL,      -- the seed that was sent
        parameters TEXT NOT NULL,  -- JSON, the rest of the recipe, without usual values (see `rows`)
        state TEXT NOT NULL,
        open BOOLEAN NOT NULL,     -- whether there is more to learn or to fetch
        charged TEXT NOT NULL,
        created BIGINT NOT NULL,
        sent BIGINT,               -- NULL is proof that its call has not left
        sent_time DOUBLE PRECISION, -- the same, by the clock that all servers share
        ended BIGINT,
        next_try BIGINT,           -- when to try again
        cost TEXT,                 -- USD, the exact decimal (NULL: unknown, as in the next columns)
        spent BIGINT NOT NULL,     -- billionths of a USD: its part of the sums in `spending`
        credits_left TEXT,
        seconds TEXT,
        reported_id TEXT,
        reported_seed BIGINT,
        notes TEXT NOT NULL,
        error TEXT,
        search TEXT,               -- JSON: how far the API's history was searched for its call
        holder TEXT,               -- the server that works on it
        awaited_by TEXT,           -- the server whose caller waits for it
        delivered BOOLEAN NOT NULL,
        arrived DOUBLE PRECISION NOT NULL, -- when its first call came, by the clock that all servers share
        last_call BIGINT NOT NULL, -- when a call for it last began or ended
        last_call_time DOUBLE PRECISION NOT NULL, -- the same, by the clock that all servers share
        wanted_until BIGINT NOT NULL -- the last time at which another server may send it
    );
    CREATE INDEX jobs_by_remote_id ON jobs (remote_id);
    CREATE INDEX jobs_by_time ON jobs (created);
    CREATE INDEX jobs_by_seed ON jobs (seed);
    CREATE INDEX jobs_open ON jobs (base_url) WHERE open;
    CREATE INDEX jobs_unsent ON jobs (holder) WHERE open AND sent IS NULL;
    CREATE INDEX jobs_to_join ON jobs (call) WHERE NOT delivered;
    CREATE TABLE secrets (
        name TEXT PRIMARY KEY,
        value TEXT NOT NULL
    );
    CREATE TABLE images (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        job BIGINT NOT NULL REFERENCES jobs (number),
        store TEXT NOT NULL,       -- the address of the store that it is in
        key TEXT NOT NULL,         -- its name there
        fallback BOOLEAN NOT NULL, -- whether it is outside the store that was first when it was saved
        mime_type TEXT NOT NULL,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        bytes BIGINT NOT NULL,
        sha256 TEXT NOT NULL,
        created BIGINT NOT NULL,   -- the same as its job's
        owner TEXT NOT NULL,       -- the same as its job's
        starred BOOLEAN NOT NULL DEFAULT FALSE,
        deleted BIGINT             -- when its file was deleted, if it was
    );
    CREATE INDEX images_by_job ON images (job);
    CREATE INDEX images_fallback ON images (created) WHERE fallback AND deleted IS NULL;
    CREATE TABLE gallery (         -- the pictures that are not deleted: pages and searches read this table in its order
        created BIGINT NOT NULL,
        image BIGINT NOT NULL REFERENCES images (number),
        owner TEXT NOT NULL,
        starred BOOLEAN NOT NULL,
        words TEXT NOT NULL,       -- the words by which it is found
        PRIMARY KEY (created, image)
    ) WITHOUT ROWID;
    CREATE INDEX gallery_by_owner ON gallery (owner, created, image);
    CREATE INDEX gallery_starred ON gallery (created, image) WHERE starred;
    CREATE TABLE moved_images (
        store TEXT NOT NULL,       -- where the old copy of a moved picture is
        key TEXT NOT NULL,
        image TEXT NOT NULL REFERENCES images (id),
        moved BIGINT NOT NULL,
        PRIMARY KEY (store, key)
    );
    CREATE INDEX moved_images_by_time ON moved_images (moved);
    CREATE TABLE slots (           -- one for each call under way
        number INTEGER PRIMARY KEY,
        job TEXT NOT NULL UNIQUE,
        server TEXT NOT NULL,
        caller TEXT NOT NULL
    );
    CREATE TABLE calls (           -- those of the last minute
        number INTEGER PRIMARY KEY,
        caller TEXT NOT NULL,
        time DOUBLE PRECISION NOT NULL  -- by the clock that all servers share
    );
    CREATE INDEX calls_by_caller ON calls (caller, time);
    CREATE INDEX calls_by_time ON calls (time);
    CREATE TABLE spending (
        day INTEGER NOT NULL,
        owner TEXT NOT NULL,
        spent BIGINT NOT NULL,     -- billionths of a USD
        PRIMARY KEY (day, owner)
    )
"""
