"""The page that sets our figures beside the published ones and shows what the models retrieve."""
