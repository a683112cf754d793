"""The one table: a row a method, means and spreads over seeds, what cannot be told apart from the best marked.

finished     reads a run directory whose stages are done, and prints
statistics   what a few seeds and images say, and what they cannot
results      makes the table of a run directory, and a list of what happened to each image
rows         makes figures as plain data from the results of the stages
comparisons  each method against the best, and against the first
grids        the table as texts, and what stands below it, as every form shows them
chosen       some of its columns, its rows in the order of one
columns      the columns of the printed table
lines        the lines under it
forms        presents them as JSON, Markdown, CSV and in a terminal
latex        presents them as LaTeX
html         presents them as HTML
tabulated    presents them in Python
opened       a finished run in Python: its table, networks, genotypes, histories and records
several      one table of several runs
report       one page of a run, or of several, with all of its drawings
robustbench  one result in the form of RobustBench's files
"""
