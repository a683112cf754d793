"""The report of a run: one page that loads nothing, with the table, drawings of what was found, and how to do it again.

page        puts a page together, and writes it
sections    the parts of the page that are about one run
charts      describes a drawing as plain data
curves      describes accuracy over epsilon, and clean against robust accuracy
searches    describes what happened in the searches, epoch by epoch
svg         draws a chart
heat        draws a heat map
axis        where an axis has its ticks
pictures    shows images that attacks broke
style       how the page looks
plots       writes the charts as files, with matplotlib
"""
