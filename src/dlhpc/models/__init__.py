"""The networks, once per framework: flax_mlp, flax_cnn, torch_deepspeed_mlp, torch_deepspeed_cnn."""
