"""Files that only the holder of a key can read: AES-256-GCM in chunks, with a key for each dataset."""
