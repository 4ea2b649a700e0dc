"""Stories of recovery, one a figure of the source or a command: told by what really ran, and kept as transcripts."""
