"""What people who look and steer do in Redis. Servers know nothing of it."""
