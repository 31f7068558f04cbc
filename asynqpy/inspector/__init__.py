"""The Inspector: looks at queues and tasks, and steers them."""
