"""What this machine can reach: the rate of each stage of serving, measured on generated videos."""
