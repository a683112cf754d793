"""How rows of coefficients pass backwards through the functions of a network, one family a file (`tape.Step`)."""
