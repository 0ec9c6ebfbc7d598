"""What a call means. [daemon] Handlers answer an authorised call from state/; they open nothing in a home."""
