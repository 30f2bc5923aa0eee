"""What a gradient comes from: losses, intrinsic rewards, optimisers."""
