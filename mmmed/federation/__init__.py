"""What a site and the server agree on: the messages between them, whatever carries them."""
