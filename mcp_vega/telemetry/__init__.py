"""What an operator sees of a running server: spans of OpenTelemetry, figures for Prometheus, and the log.

measurements  each kind of work that is measured: a span and the figures of it, from one place
spans         opens spans, with the API of OpenTelemetry alone
recorder      takes the figures; the default does nothing
failures      logs errors of recorders and tracers, which must not break the work
prometheus    takes the figures for Prometheus; needs the extra `team`
logs          the log on stderr, as text or as JSON
log_context   the job and the request of the lines that are logged
"""
