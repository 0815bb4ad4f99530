"""How a machine gets its certificates: a token, used once, and later its certificate itself."""
