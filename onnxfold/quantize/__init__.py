"""INT8: where Q/DQ nodes go, which ranges they get, and how lost accuracy is won back."""
