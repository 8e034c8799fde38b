"""What an operator sees of a running server: spans of OpenTelemetry, figures for Prometheus, and the log."""
