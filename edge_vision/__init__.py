"""Vision that must act now: camera, detector, decision and cloud bridge for ROS 2."""
