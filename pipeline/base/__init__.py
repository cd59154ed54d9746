"""What everything stands on: errors, files, log, stamps, the command line."""
