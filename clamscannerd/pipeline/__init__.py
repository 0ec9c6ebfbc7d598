"""What one job does, seen from the daemon: worker, engine and store brought together. [daemon]"""
