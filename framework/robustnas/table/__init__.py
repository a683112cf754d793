"""The one table: a row a method, mean and standard deviation over seeds, best value marked.

finished     what is read of a run directory once its stages are done, and printed
results      from a run directory to the table, and to a list of what happened to each image
rows         the figures as plain data, from the results of the stages
forms        how they are presented: JSON, Markdown, CSV, terminal
robustbench  one result in the form of RobustBench's files
"""
