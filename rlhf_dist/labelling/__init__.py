"""What people, and judges in their place, say of answers: the files, the page for labellers, agreement and ratings."""
