"""From an audio file to log-mel frames: decode, resample, crop and pad, front end."""
