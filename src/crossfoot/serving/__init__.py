"""A trained model behind the address of a server, and what that server bears."""
