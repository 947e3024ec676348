"""What is used in a browser, on Gradio: the pages of `record` and `demo`, thin over plain parts."""
