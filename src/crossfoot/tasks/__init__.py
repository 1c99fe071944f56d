"""What a model is asked when it is evaluated: tasks, their items, and the requests made of them."""
