"""What is measured on an accelerator, in order of value. Each module holds one part's
`MEASUREMENTS`.
"""
