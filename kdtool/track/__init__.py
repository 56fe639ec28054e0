"""Runs followed elsewhere: TensorBoard, Weights & Biases, MLflow. What they get stands in metrics.jsonl, too."""
