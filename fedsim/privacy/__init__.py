"""What makes a run private: who trains, how updates are clipped, which noise is added, and what may be claimed."""
