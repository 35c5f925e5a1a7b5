"""What `emphasis --help` and the help of its commands say."""

RUN_DESCRIPTION = """\
Run a recipe: train every method in every condition with every seed, and write a folder with
results.jsonl (one line per network), table.csv, report.html and figures.

What is trained already is not trained again. A run that was stopped, or killed, goes on where it
was when the same command is given again, and ends with the same numbers."""

RUN_EXAMPLES = """\
examples:
  emphasis run digits
  emphasis run digits --noise-rate 0.6 --out runs/digits-60
  emphasis run digits --seeds 2 --iterations 300 --out runs/quick
  emphasis run table9 --scaled --data ~/data
  emphasis run table5 --only "r = 0.4" --methods CCE DM
  emphasis run table9 --set network.name=resnet20 --set solver.batch_size=128 --out runs/mine
  emphasis run my-recipe.toml"""

REPORT_DESCRIPTION = """\
Show the results of a run beside the paper's: differences, number of seeds and spread. Without
--format, print them as text and write table.csv, report.html and the figures into the folder."""

REPORT_EXAMPLES = """\
examples:
  emphasis report table5                        from runs/table5, else results/table5
  emphasis report results/table5 --format csv
  emphasis report digits --format html --out digits.html"""

SEARCH_DESCRIPTION = """\
Search settings of one method: train on 80 % of the training data, noise included, judge by the
other 20 % with their true labels, and train the best settings on all of it in the end. The test
set is not looked at before. A search that was stopped goes on when the same command is given again."""

SEARCH_EXAMPLES = """\
examples:
  emphasis search digits --method "DM 0.5/8 integral"
  emphasis search digits --method "GCE q=0.7" --vary weighting.q=0.1:1 --trials 16
  emphasis search table8 --scaled --only "r = 40 %" --method DM --vary weighting.beta=2,4,8,12
  emphasis search digits --method CCE --vary solver.learning_rate=0.003:0.3:log"""

FIT_DESCRIPTION = """\
Train a classifier of one column of a table, CSV or Parquet, that holds out against wrong labels:
cross-validate it beside cross-entropy, train it on all rows, and write a folder with the model,
report.html, metrics.json and predictions of every row by a model that has not seen it. Missing
values, categories and text labels are welcome. A fit that was stopped goes on when the same
command is given again."""

FIT_EXAMPLES = """\
examples:
  emphasis fit customers.csv --label churned
  emphasis fit customers.csv --label churned --drop id --categorical region_code
  emphasis fit wine.parquet --label cultivar --model net --weighting "DM lam=0.5 beta=8 vanishing"
  emphasis fit wine.parquet --label cultivar --model lightgbm --set n_estimators=400 --folds 10"""

PREDICT_DESCRIPTION = """\
Predict the rows of a table with the model of a fit's folder: label and probability of each class.
Columns that the model does not know are passed over; with the label column, accuracy is shown."""

PREDICT_EXAMPLES = """\
examples:
  emphasis predict runs/customers new.csv
  emphasis predict runs/customers new.parquet --out predicted.csv"""

AUDIT_DESCRIPTION = """\
Find labels that look wrong: train one network on all of them with a weighting that holds out
against wrong ones, and rank the labels by what it made of each while it learned. Writes a folder
with audit.html (the worst to look at), suspects.csv (every example ranked, with a suggested label
and a sample weight) and audit.json. An audit that was stopped goes on when the same command is
given again; one of data that has changed begins anew."""

AUDIT_EXAMPLES = """\
examples:
  emphasis audit digits                         a recipe's data, to see what is found of its noise
  emphasis audit customers.csv --label churned
  emphasis audit customers.csv --label churned --drop id --export cleaned.csv
  emphasis audit photos                         a folder with a folder of images for each class
  emphasis audit runs/trace                     what EmphasisTrace recorded in a loop of your own"""

TUNE_DESCRIPTION = """\
Choose a weighting and a learning rate for data whose labels nobody has checked. The share of
wrong labels is estimated as `audit` does it, and sets DM's lambda: the more noise, the easier the
examples to emphasise (section 4.1 of the paper). Beta, form, normalisation and learning rate are
searched, judged by labels that were held out, wrong ones included: they rank settings as right
labels do. Settings that fall behind on the first held-out part are not tried on the others.
Cross-entropy, at its own best learning rate, is recommended unless the best found is clearly
better. Writes a folder with tune.html, tune.json and the networks. A tuning that was stopped goes
on when the same command is given again."""

TUNE_EXAMPLES = """\
examples:
  emphasis tune digits --noise-rate 0.4
  emphasis tune customers.csv --label churned
  emphasis tune photos --trials 12 --folds 2
  emphasis tune customers.csv --label churned --assume-rate 0.2
  emphasis tune digits --vary weighting.lam=0:2 --vary weighting.beta=0.5:24:log"""

FIGURE_DESCRIPTION = """\
Draw a figure of the paper from the run of its recipe, full or scaled, or of another with --run.
Without a name, list the figures and the runs that were found for them. The drawings can be read in
print and, as SVG, on light and on dark pages."""

FIGURE_EXAMPLES = """\
examples:
  emphasis figure
  emphasis figure 1b
  emphasis figure 2a --run results/figure2-scaled --out p.png
  emphasis figure 5 --theme dark --out figure-5.png"""

DESIGN_DESCRIPTION = """\
Open a page with the weight w(p), the emphasis density h(p) and the implied loss of any weighting,
with sliders, or drawn by hand by dragging points; it gives the line of Python, or of a recipe, that
makes the weighting. The page is served to this computer alone and needs no network."""

SHOW_DESCRIPTION = """\
Draw the emphasis density h(p) = w(p) / integral of w in the terminal, or to a file, and print the
emphasis mode (the p that counts most), the integral, w(1) and the share of emphasis near the mode."""

SHOW_EXAMPLES = """\
examples:
  emphasis show DM --lam 0.5 --beta 12
  emphasis show DM --lam 0.5 --beta 12 --vanishing
  emphasis show DM --lam 1 --beta 16 --vs CCE GCE --out edf.png
  emphasis show SCE                              next to DM
  emphasis show label-smoothing --epsilon 0.1 --vs active-passive bootstrapping"""
