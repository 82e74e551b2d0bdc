"""Guards: each a state machine without a clock or a loop, in a thin asynchronous shell that wraps a handler."""
