"""The ROS side: nodes that adapt the core to topics, services and parameters."""
