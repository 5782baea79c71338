"""What goes by rule and when: takes past their time or over a limit, and what nobody owns. Favourites never do."""
